"""The direct transport: requests and answers pass between the HTTP process and the workers over sockets."""
