package domain

import (
	"testing"
	"time"
)

// An endpoint chooses what it is told of. The choice is kept in one order, and none is all.
func TestEndpointChoosesMessageTypes(t *testing.T) {
	t.Parallel()
	project := &Project{ID: proj1, OrganizationID: org1}
	chosen := []MessageType{MessageKeyRevoked, MessageRotationStalled, MessageKeyRevoked}
	want := []MessageType{MessageRotationStalled, MessageKeyRevoked}
	made, err := project.RegisterEndpoint(RegisterEndpoint{ID: ep1, Target: plainTo(hook), AckLevel: AckAccepted, EventTypes: chosen})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "types of a new endpoint", made[0].Data.(EndpointCreated).EventTypes, want)
	p := after(t, made[0].Data, proven)
	same(t, "types after a proof", p.EventTypes, want)

	edited, err := p.Update(UpdateEndpoint{EventTypes: ChangeTo([]MessageType{MessageKeyRevoked})})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "events", edited, []Decided{{string(ep1), org1, proj1, EndpointUpdated{
		Changed: []string{"event_types"}, Target: plainTo(hook), AckLevel: AckAccepted, EventTypes: []MessageType{MessageKeyRevoked},
	}}})
	if edited, err = p.Update(UpdateEndpoint{AckLevel: ChangeTo(AckProof)}); err != nil {
		t.Fatal(err)
	}
	same(t, "types that were not named", edited[0].Data.(EndpointUpdated).EventTypes, want)
	if edited, err = p.Update(UpdateEndpoint{EventTypes: ChangeTo([]MessageType(nil))}); err != nil {
		t.Fatal(err)
	}
	same(t, "all types again", edited[0].Data.(EndpointUpdated).EventTypes, []MessageType(nil))
	if edited, err = p.Update(UpdateEndpoint{EventTypes: ChangeTo(chosen)}); err != nil || edited != nil {
		t.Errorf("the same in another order decides %+v, %v", edited, err)
	}

	for what, types := range map[string][]MessageType{"empty": {}, "unknown": {MessageKeyRevoked, "key.exploded"}, "no type": {""}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, err := project.RegisterEndpoint(RegisterEndpoint{ID: ep1, Target: plainTo(hook), AckLevel: AckAccepted, EventTypes: types})
			refused(t, err, CodeValidation, "event_types")
			_, err = after(t, plainCreated).Update(UpdateEndpoint{EventTypes: ChangeTo(types)})
			refused(t, err, CodeValidation, "event_types")
		})
	}
	_, err = after(t, onTheFly(hook, lin1, "")).Update(UpdateEndpoint{EventTypes: ChangeTo(want)})
	refused(t, err, CodeValidation, "event_types")
}

// That a receiver refuses everything is told after three equal refusals, and of one status once a day.
func TestNoteFailing(t *testing.T) {
	t.Parallel()
	told := EndpointFailing{Status: 401, Failures: 3}
	p := after(t, plainCreated, proven, told)
	same(t, "the alarm", p.Failing, &EndpointAlarm{401, at(2 * time.Minute)})
	if !p.UpdatedAt.Equal(at(time.Minute)) || p.Version != 3 {
		t.Errorf("an alarm changed the endpoint: %v, version %d", p.UpdatedAt, p.Version)
	}
	for what, c := range map[string]struct {
		p                *Endpoint
		status, failures int
		at               time.Duration
		alarm            bool
	}{
		"the first":           {after(t, plainCreated, proven), 401, 3, hour, true},
		"too few":             {after(t, plainCreated, proven), 401, 2, hour, false},
		"no 4xx":              {after(t, plainCreated, proven), 503, 9, hour, false},
		"the same again":      {p, 401, 9, hour, false},
		"another":             {p, 403, 3, hour, true},
		"the same next day":   {p, 401, 9, day + 2*time.Minute, true},
		"nobody is asked":     {after(t, plainCreated, proven, paused), 401, 3, hour, false},
		"it is disabled":      {after(t, plainCreated, proven, disabled), 401, 3, hour, false},
		"it was not proven":   {after(t, plainCreated), 401, 3, hour, false},
		"a key's own":         {after(t, onTheFly(hook, lin1, "")), 404, 3, hour, true},
		"just before a day":   {p, 401, 9, day + 2*time.Minute - 1, false},
		"below 400":           {after(t, plainCreated, proven), 399, 3, hour, false},
		"above 499":           {after(t, plainCreated, proven), 500, 3, hour, false},
		"the last of the 4xx": {after(t, plainCreated, proven), 499, 3, hour, true},
	} {
		got, err := c.p.NoteFailing(c.status, c.failures, at(c.at))
		if err != nil || (len(got) == 1) != c.alarm {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	_, err := after(t, plainCreated, EndpointDeleted{}).NoteFailing(401, 3, at(hour))
	refused(t, err, CodeNotFound, "")
}
