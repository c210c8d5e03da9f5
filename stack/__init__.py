"""The starter: one command that brings up servers, API, dispatcher, workers and LM host as child processes,
watches them and stops them in order.
"""
