"""The AVA family of files and the score computed from them; numpy only."""
