"""The status, its conditions and the events that announce a change."""
