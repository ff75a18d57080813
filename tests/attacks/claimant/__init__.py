"""A dishonest claimant: what he may try, and the test that shows it is refused or gains nothing.

| attempt | where |
|---|---|
| key searched for after seeing the suspect | test_search; 2^20 tries in scripts/bench_claimant.py |
| reference = suspect minus pattern | test_search; tests/cli/test_check_job.py (the whole job) |
| overwriting, then claiming | test_whose; survival of the first mark: scripts/bench_survival.py |
| block keys ground one by one, or all equal | test_search, test_statements |
| geometry, strengths, exclusions fitted afterwards | test_statements; tests/watermark/marks/test_commitment.py |
| salts and keys of a copy ground | test_statements; recipient renamed: tests/cli/test_check_job.py |
| chosen subset or prefix of blocks | test_openings; left out, twice, reordered: tests/cli/test_check_job.py |
| openings steered by padding suspect or log, by spent blocks, by the case entry | test_openings |
| alignment fitted to the chips; reference that steers the alignment | test_alignment |
| references that are no numbers | test_statements |
| bits of many keys summed | test_search |
| own model reordered to fit (kinship) | test_alignment, test_whose; tests/cli/test_check_aligned.py |
| a public base, an ancestor, a sibling claimed | test_whose; tests/cli/test_check_job.py (declared base) |
| a model that copied ours by right | test_whose |
| forged time | test_statements; stamps misplaced, missing, older suspects: tests/cli/test_order_job.py |
| best of many statistics or layers | test_statements, test_openings; tests/watermark/test_evidence.py |
| another's evidence replayed, as it is or under his own name | test_openings; tests/cli/test_check_job.py |
| suspect padded, cut or swapped | test_openings; tests/cli/test_check_job.py |
| result edited | test_statements; every byte flipped: tests/cli/test_check_job.py |
| one key for several models | test_statements; tests/watermark/marks/test_commitment.py |

Query marks do not exist yet, so what concerns them (phi, generator, clean model, query sets) is not here.
"""
