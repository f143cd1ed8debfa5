package apikey

import (
	"net/http"
	"slices"
	"strings"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
)

// errorBody is every error of this surface. Which field is wrong and what to do stand in the sentence; the request id is
// in its header.
type errorBody struct {
	Error  string `json:"error" example:"API key not found" doc:"What is wrong, and what to do about it"`
	Status string `json:"status" enum:"KO"`
}

// Texts of the page, which clients compare with, and those that we added in its tone.
const (
	textInvalidMode   = "Invalid mode specified. Must be one of: read, write, upload, all"
	textNotFound      = "API key not found"
	textNotPermitted  = "Insufficient permissions to manage API keys"
	textInvalidKey    = "Invalid API key"
	textInvalidSubkey = "Invalid subkey"
	textOneKeyOnly    = "Send one API key only"
)

// shape gives an error the page's form. A field that is wrong is a 400 here, as it was where the page comes from.
func shape(p *surface.Problem) any {
	if p.Code == domain.CodeValidation {
		p.Status = http.StatusBadRequest
	}
	return errorBody{Error: text(p), Status: "KO"}
}

func text(p *surface.Problem) string {
	switch {
	case p.Details[subkey] == true:
		return textInvalidSubkey
	case p.Code == domain.CodeUnauthenticated:
		return textInvalidKey
	case p.Code == domain.CodeInsufficientScope, p.Code == domain.CodeEscalation:
		return textNotPermitted
	case len(p.Errors) == 0:
		return p.Detail
	case slices.ContainsFunc(p.Errors, func(e domain.FieldError) bool { return e.Field == "mode" }):
		return textInvalidMode
	case p.Errors[0].Message == "is missing": // which says what to do
		return p.Detail
	}
	return inOurWords.Replace(p.Detail + ": " + p.Errors[0].Remedy)
}

// inOurWords names things as this surface does.
var inOurWords = strings.NewReplacer(
	"resources."+kindApp, "limited_to_apps", "resources."+kindOrg, "limited_to_orgs",
	"scopes include", "mode includes",
)
