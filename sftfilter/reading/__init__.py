"""Reading rows of conversations: one layer for prompts, rollouts and teachers' answers.

`source` says where they lie and what they look like, `places` opens files on disk and in buckets, `formats` turns them
into records, `shapes` turns records into turns, `normal` makes rows with ids and names what is wrong with the others.
"""
