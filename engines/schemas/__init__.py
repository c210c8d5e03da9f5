"""The files and bodies by which the rest of the system talks to the engines."""
