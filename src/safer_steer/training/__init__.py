"""Stage III: GRPO with a tutor in the loop that scores every turn and writes the next attack."""
