"""Boards reached by SSH, through paramiko."""
