"""What others do to the same question, stated again from their papers, for `scripts.bench_zoo` to compare with.

One method a file, the paper named in it. Each answers with a score, higher for more related, or None where it has no
answer for such a pair. They are given more than an outsider has: where the parts of both models lie, and a runnable
model. Written from the papers and the tools' documents, no code of theirs; sizes are those of small models.
"""
