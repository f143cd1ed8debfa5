package commands

// FirstUses is how many first uses are being acknowledged, so that a test can wait for them.
func (s *Service) FirstUses() int { return len(s.firstUse) }
