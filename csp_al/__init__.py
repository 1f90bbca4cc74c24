"""Crystal structure prediction by active learning: find the most stable crystals with few DFT calculations."""
