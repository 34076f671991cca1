"""The guest's agent as the host sees it; `proto` is generated from guest-agent/proto when the package is built."""
