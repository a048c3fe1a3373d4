"""The load test: many clients against one endpoint, every request timed, the raw figures kept."""
