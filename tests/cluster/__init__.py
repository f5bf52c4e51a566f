"""The lab: a real one-node Kubernetes and S3 on one Linux host, without Docker.

`python -m tests.cluster up` brings it up for the demo and for the integration and end-to-end tests;
`down` leaves nothing behind. Standard library only: it runs before any virtual environment exists.
"""
