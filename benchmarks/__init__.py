"""Measurements of mgrad. Each runs by itself and writes JSON, from which its tables and plots are made."""
