"""The kernel side of vpc-cnid: pods' links, routes and rules, and the host network of the ENIs."""
