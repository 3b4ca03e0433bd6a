"""The server of the exported model: LitAPI, HTTP application, launcher, client, and the direct transport."""
