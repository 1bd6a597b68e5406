"""The part of the container runtime interface that we speak, and the code generated from it."""
