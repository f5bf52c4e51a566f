"""How the API server is reached: login, requests, rate limit, Lease, and the kinds that are read and written."""
