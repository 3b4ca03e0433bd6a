"""Train, serve and load-test an image classifier; explain what limits each LitServe configuration."""
