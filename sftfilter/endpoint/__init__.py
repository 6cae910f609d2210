"""OpenAI-compatible chat endpoints: settings, pacing, and a client that tells an answer from a failure."""
