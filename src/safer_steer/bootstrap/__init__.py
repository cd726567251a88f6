"""Stage II: synthetic bootstrapping. Red-blue dialogues, filtered, and supervised fine-tuning on those
kept."""
