"""Alembic's folder: env.py runs the revisions in versions/ on the connection that schema.py hands over."""
