"""The server of the exported model: LitAPI, HTTP application, its page, and a client."""
