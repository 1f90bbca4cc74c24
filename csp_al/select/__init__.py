"""Which candidates are labelled next, and when the search is over."""
