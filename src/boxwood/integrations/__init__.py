"""Boxwood inside other trainers and libraries; each module needs the extra of its name."""
