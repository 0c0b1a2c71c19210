"""Floor 2: corpora in, clean samples out. Knows files and orders, neither models nor chats."""
