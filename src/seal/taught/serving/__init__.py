"""A taught model behind OpenAI's API, and a page to ask it on."""
