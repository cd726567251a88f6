"""Stage II, synthetic bootstrapping: red-blue dialogues, a filter, and SFT on the dialogues it keeps."""
