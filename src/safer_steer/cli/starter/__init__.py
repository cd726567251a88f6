"""`safer-steer init`: a small project to start from, with drawn pictures or with the user's own."""
