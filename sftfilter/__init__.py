"""sftfilter: filter or swap rollouts, train every student, and say what the evidence supports.

The library holds every stage and knows nothing of launchers or web servers. Stages never import each
other; they meet at `schema` (tables) and `artifacts` (where the tables lie).
"""

__version__ = "0.1.0"
