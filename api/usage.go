package api

import (
	"cmp"
	"context"
	"net/url"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

type usageInput struct {
	surface.PageInput
	ProjectID   domain.ProjectID      `query:"project_id" doc:"Only of this project"`
	KeyID       domain.KeyID          `query:"key_id" doc:"Only of this key, which is one generation of its lineage"`
	LineageID   domain.LineageID      `query:"lineage_id" doc:"Only of this lineage: a key and all that came before and after it by rotation"`
	From        time.Time             `query:"from" doc:"The bucket that this is in is the first; default: a day before to, or 30 days if the granularity is day"`
	To          time.Time             `query:"to" doc:"Exclusive; default: now. At most 31 days after from, or two years if the granularity is day"`
	Granularity projections.UsageStep `query:"granularity" enum:"hour,day" default:"hour" doc:"How long a bucket is; days are those of UTC"`
}

type usageBucketBody struct {
	Start       time.Time `json:"start"`
	UseCount    int64     `json:"use_count" example:"12" doc:"Verifies that said valid, and requests to rekey itself"`
	DeniedCount int64     `json:"denied_count" example:"0" doc:"Verifies that found the key and did not say valid"`
	Complete    bool      `json:"complete" doc:"Nothing more is to come, and nothing is known to be missing: no replica crashed in it with uses that were not written, and it was not dropped by age"`
}

type usageOutput struct {
	Link          string            `header:"Link" doc:"The next page, rel=next; absent on the last one"`
	CompleteUntil string            `header:"Rekey-Use-Complete-Until" doc:"Each verify that was answered before is counted, on every replica, except where a bucket is not complete; absent while it is not known"`
	Body          []usageBucketBody `nullable:"false"`
}

// Spans of a series, each with its remedy.
const (
	maxUsageHours = 31 * 24 * time.Hour
	maxUsageDays  = 731 * 24 * time.Hour
)

// usage shows how often keys were used, bucket by bucket, oldest first.
func (s *server) usage(ctx context.Context, in *usageInput) (*usageOutput, error) {
	if err := cmp.Or(
		surface.CheckFilter("project_id", domain.PrefixProject, string(in.ProjectID)),
		surface.CheckFilter("key_id", domain.PrefixKey, string(in.KeyID)),
		surface.CheckFilter("lineage_id", domain.PrefixLineage, string(in.LineageID)),
	); err != nil {
		return nil, err
	}
	from, to, err := in.span(s.Now())
	if err != nil {
		return nil, err
	}
	next, err := in.after(from, to)
	if err != nil {
		return nil, err
	}
	step := in.Granularity.Length()
	buckets, complete, err := s.Reader.UsageSeries(ctx, projections.UsageQuery{
		Reach: surface.Reach(ctx), Key: in.KeyID, Lineage: in.LineageID, Project: in.ProjectID, Step: in.Granularity,
		From: next, To: earlier(to, next.Add(time.Duration(in.Limit+1)*step)), // one more than the limit tells of a next page
	})
	if err != nil {
		return nil, err
	}
	out := &usageOutput{Body: []usageBucketBody{}}
	if complete != nil {
		out.CompleteUntil = complete.Format(time.RFC3339Nano)
	}
	buckets, out.Link = surface.Cut(in.PageInput, "/v1/usage", buckets, func(b projections.UsageBucket) string { return b.Start.Format(time.RFC3339) }, url.Values{
		"project_id": {string(in.ProjectID)}, "key_id": {string(in.KeyID)}, "lineage_id": {string(in.LineageID)},
		"granularity": {string(in.Granularity)}, "from": {from.Format(time.RFC3339)}, "to": {to.Format(time.RFC3339Nano)},
	})
	for _, b := range buckets {
		out.Body = append(out.Body, usageBucketBody{b.Start, b.Used, b.Denied, b.Complete})
	}
	return out, nil
}

// span is what is asked for: the start of the first bucket, and the end.
func (in *usageInput) span(now time.Time) (from, to time.Time, err error) {
	widest, usual, words := maxUsageHours, 24*time.Hour, "31 days"
	if in.Granularity == projections.UsageDay {
		widest, usual, words = maxUsageDays, 30*24*time.Hour, "731 days"
	}
	from, to = in.From, in.To
	if to.IsZero() {
		to = now
	}
	if from.IsZero() {
		from = to.Add(-usual)
	}
	const remedy = "send a time since 1970, such as 2026-03-01T00:00:00Z"
	switch {
	case from.Year() < 1970:
		return from, to, domain.InvalidField("from", "is out of range", remedy)
	case to.UTC().Year() > 9999:
		return from, to, domain.InvalidField("to", "is out of range", remedy)
	case !from.Before(to):
		return from, to, domain.InvalidField("from", "is not before to", "send a from that is before to")
	case to.Sub(from) > widest:
		return from, to, domain.InvalidField("to", "is more than "+words+" after from", "ask for less at once, or for days instead of hours")
	}
	return in.Granularity.Floor(from), to.UTC(), nil
}

// after is where the page begins: behind the bucket that the cursor names.
func (in *usageInput) after(from, to time.Time) (time.Time, error) {
	if in.Cursor == "" {
		return from, nil
	}
	last, err := time.Parse(time.RFC3339, in.Cursor)
	if err != nil || !in.Granularity.Floor(last).Equal(last) || last.Format(time.RFC3339) != in.Cursor || last.Before(from) || !last.Before(to) {
		return from, domain.InvalidField("cursor", "is not one of ours", "take it from the Link header of the page before")
	}
	return last.UTC().Add(in.Granularity.Length()), nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
