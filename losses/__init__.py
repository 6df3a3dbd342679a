"""Loss terms in plain torch: each returns a scalar or one value per image; weights are applied in `totals`."""
