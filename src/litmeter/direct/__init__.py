"""What serves: LitAPIs, by LitServe or by the direct transport, whose workers answer by a socket."""
