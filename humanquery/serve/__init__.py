"""People over HTTP: pictures and short clips in, JSON and drawn pictures out, and a page to try
it."""
