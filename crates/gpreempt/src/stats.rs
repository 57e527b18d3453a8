//! What operations took: HDR histograms per operation and phase.
