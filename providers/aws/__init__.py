"""EC2: the provider that runs in ipamd's cloud child."""
