package surface

import (
	"fmt"
	"net/url"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// PageInput selects a page of a list. It is exported because huma fills embedded fields only then.
type PageInput struct {
	Limit  int    `query:"limit" default:"50" minimum:"1" maximum:"500" doc:"How many at most"`
	Cursor string `query:"cursor" doc:"From the Link header of the page before"`
}

// Check refuses a cursor that is no id of the list's kind.
func (p PageInput) Check(prefix string) error {
	if p.Cursor == "" || domain.ValidID(prefix, p.Cursor) {
		return nil
	}
	return domain.InvalidField("cursor", "is not one of ours", "take it from the Link header of the page before")
}

// Page asks for one more than the limit, which tells whether there is a next page.
func (p PageInput) Page() projections.Page {
	return projections.Page{After: p.Cursor, Limit: p.Limit + 1}
}

// Cut shortens a list to the limit and returns the link to the rest.
func Cut[T any](p PageInput, path string, list []T, id func(T) string, query url.Values) ([]T, string) {
	if len(list) <= p.Limit {
		return list, ""
	}
	list = list[:p.Limit]
	query.Set("limit", fmt.Sprint(p.Limit))
	return list, NextLink(path, id(list[len(list)-1]), query)
}

// List is an answer with a part of a list.
type List[B any] struct {
	Link string `header:"Link" doc:"The next page, rel=next; absent on the last one"`
	Body []B    `nullable:"false"`
}

// ListOf shows what was found, up to the limit. A query repeats the request's filters for the link to the rest.
func ListOf[T, B any](p PageInput, path string, found []T, id func(T) string, query url.Values, body func(T) B) *List[B] {
	found, link := Cut(p, path, found, id, query)
	out := &List[B]{Link: link, Body: make([]B, 0, len(found))}
	for _, one := range found {
		out.Body = append(out.Body, body(one))
	}
	return out
}

// CheckFilter refuses what cannot be an id; an id that is unknown selects nothing.
func CheckFilter(field, prefix, id string) error {
	if id == "" || domain.ValidID(prefix, id) {
		return nil
	}
	return domain.InvalidField(field, "is not an id", "take it from a key; it begins with "+prefix+"_")
}

// NextLink is the Link header that leads to the next page.
func NextLink(path, cursor string, query url.Values) string {
	for name, values := range query {
		if values[0] == "" {
			query.Del(name)
		}
	}
	query.Set("cursor", cursor)
	return fmt.Sprintf(`<%s?%s>; rel="next"`, path, query.Encode())
}
