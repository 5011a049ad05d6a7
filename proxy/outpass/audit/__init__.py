"""Audit: one record per decision, in a form that a person and a machine can both trust.

Lives here: the record (`record`, pure), its SQLite file (`store`), its forms for readers (`export`). May not live here:
decisions, and any detail of a request that a record must not hold (bodies, header values, query values).
"""
