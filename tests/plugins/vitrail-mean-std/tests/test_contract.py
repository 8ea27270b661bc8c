from vitrail_mean_std import MeanStdPool

from vitrail.testing import pool_checks

test_mean_std_pool = pool_checks(MeanStdPool)
