package domain

import "testing"

// A secret that is fetched has not arrived with the address at which it can be: a 2xx answer must not end the wait for it.
func TestDemand(t *testing.T) {
	t.Parallel()
	for _, level := range ackDemands {
		for mode, want := range map[SecretMode]AckLevel{SecretPlain: level, SecretSealed: level, SecretClaim: AckFirstUse} {
			p := &Endpoint{Target: Target{SecretMode: mode}, AckLevel: level}
			if got := p.Demand(); got != want {
				t.Errorf("%s with %s demands %s, want %s", mode, level, got, want)
			}
		}
	}
	if AckAccepted.Meets(AckFirstUse) || AckProof.Meets(AckFirstUse) || !AckClaim.Meets(AckFirstUse) || !AckForced.Meets(AckFirstUse) {
		t.Error("the wrong signs meet the demand of a claim")
	}
}
