"""Networks that turn arrays into codes and back; nothing here knows a vocabulary, a file or a prompt."""
