package domain

import (
	"strings"
	"testing"
)

func TestCreateOrganization(t *testing.T) {
	t.Parallel()
	got, err := CreateOrganization(org1, " Acme ")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "events", got, []Decided{{StreamID: string(org1), OrganizationID: org1, Data: OrganizationCreated{Name: "Acme"}}})
	for _, bad := range []string{"", "a\x00", strings.Repeat("a", MaxNameLength+1)} {
		_, err := CreateOrganization(org1, bad)
		refused(t, err, CodeValidation, "name")
	}
}

func TestUpdateOrganization(t *testing.T) {
	t.Parallel()
	before := &Organization{ID: org1, Name: "Acme", DisabledSurfaces: []string{"apikey"}}
	for _, c := range []struct {
		name string
		edit UpdateOrganization
		want OrganizationUpdated // without Changed: nothing is decided
	}{
		{"TheName", UpdateOrganization{Name: ChangeTo(" Example ")}, OrganizationUpdated{[]string{"name"}, "Example", []string{"apikey"}}},
		{
			"SwitchesOff", UpdateOrganization{DisabledSurfaces: ChangeTo([]string{"projects", "account-keys", "projects"})},
			OrganizationUpdated{[]string{"disabled_surfaces"}, "Acme", []string{"account-keys", "projects"}},
		},
		{"SwitchesAllOn", UpdateOrganization{DisabledSurfaces: ChangeTo([]string{})}, OrganizationUpdated{[]string{"disabled_surfaces"}, "Acme", nil}},
		{"Nothing", UpdateOrganization{}, OrganizationUpdated{}},
		{"TheSame", UpdateOrganization{Name: ChangeTo("Acme"), DisabledSurfaces: ChangeTo([]string{"apikey", "apikey"})}, OrganizationUpdated{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := before.Update(c.edit)
			if err != nil {
				t.Fatal(err)
			}
			if c.want.Changed == nil {
				same(t, "events", got, []Decided(nil))
				return
			}
			same(t, "events", got, []Decided{{StreamID: string(org1), OrganizationID: org1, Data: c.want}})
			after := *before
			after.Apply(tenantEvents(got)[0])
			same(t, "states", &after, &Organization{ID: org1, Version: 1, Name: c.want.Name, DisabledSurfaces: c.want.DisabledSurfaces})
		})
	}
	_, err := before.Update(UpdateOrganization{Name: ChangeTo("")})
	refused(t, err, CodeValidation, "name")
	_, err = before.Update(UpdateOrganization{DisabledSurfaces: ChangeTo([]string{"apikey", "native"})})
	refused(t, err, CodeValidation, "disabled_surfaces[1]")
	limited := Caller{Resources: Resources{"project": {string(proj1)}}}
	_, err = before.Update(UpdateOrganization{Name: ChangeTo("x"), Caller: limited})
	refused(t, err, CodeEscalation, "resources")
}

// tenantEvents gives each decided event its envelope.
func tenantEvents(decided []Decided) []Event {
	events := make([]Event, len(decided))
	for i, d := range decided {
		events[i] = Event{
			StreamID: d.StreamID, Version: int64(i + 1), OrganizationID: d.OrganizationID, ProjectID: d.ProjectID,
			OccurredAt: start, Data: d.Data,
		}
	}
	return events
}

func TestFoldTenants(t *testing.T) {
	t.Parallel()
	organization, err := CreateOrganization(org1, "Acme")
	if err != nil {
		t.Fatal(err)
	}
	demo, err := CreateProject(newProject("Demo", "acme"))
	if err != nil {
		t.Fatal(err)
	}
	further, err := project(liveEnvironment).CreateEnvironment(env2, "test")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := []Decided{{string(ep1), org1, proj1, onTheFly("https://example.com", lin1, "whpk_1")}}
	for _, c := range []struct {
		stream string
		events []Event
		want   State
	}{
		{string(org1), tenantEvents(organization), &Organization{ID: org1, Version: 1, Name: "Acme", CreatedAt: start}},
		{string(proj1), tenantEvents(append(demo, further...)), &Project{
			ID: proj1, Version: 3, OrganizationID: org1, Name: "Demo", Brand: "acme", CreatedAt: start, UpdatedAt: start,
			Environments: []Environment{{env1, "live", start}, {env2, "test", start}},
		}},
		{string(ep1), tenantEvents(endpoint), &Endpoint{
			ID: ep1, Version: 1, OrganizationID: org1, ProjectID: proj1, LineageID: lin1, State: EndpointActive, AckLevel: AckAccepted,
			Target: Target{URL: "https://example.com", SecretMode: SecretPlain}, SigningPublicKey: "whpk_1", CreatedAt: start, UpdatedAt: start,
		}},
		{string(org1), nil, &Organization{}},
	} {
		t.Run(c.stream, func(t *testing.T) {
			t.Parallel()
			got, err := Fold(c.stream, c.events)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "states", got, c.want)
			raw, err := EncodeState(got)
			if err != nil {
				t.Fatal(err)
			}
			back, err := DecodeState(c.stream, raw)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "states read back", back, c.want)
		})
	}
}

// A state folded from a wrong list of events would be served for ever, so the fold stops instead.
func TestFoldRefuses(t *testing.T) {
	t.Parallel()
	event := func(stream string, version int64) Event {
		return Event{ID: "evt_x", StreamID: stream, Version: version, Data: OrganizationCreated{Name: "a"}}
	}
	for _, c := range []struct {
		name   string
		stream string
		events []Event
	}{
		{"AnUnknownKind", "usr_00000000000000000000000001", nil},
		{"NoStream", "", nil},
		{"AnEventOfAnotherStream", string(org1), []Event{event("org_00000000000000000000000002", 1)}},
		{"AMissingFirstEvent", string(org1), []Event{event(string(org1), 2)}},
		{"AGap", string(org1), []Event{event(string(org1), 1), event(string(org1), 3)}},
		{"ARepetition", string(org1), []Event{event(string(org1), 1), event(string(org1), 1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if state, err := Fold(c.stream, c.events); err == nil || state != nil {
				t.Fatalf("folded into %+v (%v)", state, err)
			}
		})
	}
	for stream, raw := range map[string]string{string(org1): `{"version":`, string(lin1): `[]`, "usr_1": `{}`} {
		if state, err := DecodeState(stream, []byte(raw)); err == nil || state != nil {
			t.Errorf("%s read from %s as %+v (%v)", stream, raw, state, err)
		}
	}
}
