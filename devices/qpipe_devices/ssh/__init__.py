"""Boards reached by SSH, by paramiko."""
