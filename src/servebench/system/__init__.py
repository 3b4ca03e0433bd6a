"""The machine underneath: files written whole or not at all, processes that leave nothing behind, tables."""
