"""Side by side with the peers that are installed: what each kind of work takes, and what the machine would allow."""
