package api

import (
	"context"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// maxVerifyBatch bounds the body of a batch: it has room for a hundred verifies as large as they usually are.
const maxVerifyBatch = 256 << 10

type verifyBatchInput struct {
	Body struct {
		Requests []verifyRequest `json:"requests" minItems:"1" maxItems:"100" nullable:"false" doc:"What would be sent to /v1/api-keys/verify one by one"`
	}
}

type verifyBatchOutput struct {
	Body []verdictBody `nullable:"false"`
}

// verifyBatches describes the route.
func verifyBatches(operation *huma.Operation) {
	surface.Bodies(maxVerifyBatch, 5*time.Second)(operation)
	operation.Description += " The verdicts come in the order of the requests, each as /v1/api-keys/verify answers it. A request " +
		"that is not well-formed is named by its place, such as `requests[3].ip`, and then none of them is judged; " +
		"no use is counted either unless there is a verdict on each."
}

// verifyBatch judges several secrets. A caller's mistake in one of them, or no answer to one, fails all: so what was counted
// as a use has been answered, and the whole can be sent again.
func (s *server) verifyBatch(ctx context.Context, in *verifyBatchInput) (*verifyBatchOutput, error) {
	requests := in.Body.Requests
	for i := range requests {
		if err := checkIP(fmt.Sprintf("requests[%d].ip", i), requests[i].IP); err != nil {
			return nil, err
		}
	}
	reach := surface.Reach(ctx)
	questions := make([]*projections.VerifyRequest, len(requests))
	answers := make([]verifier.Answer, len(requests))
	for i := range requests {
		questions[i] = requests[i].in(reach)
		answer, err := s.Verifier.Verify(ctx, questions[i])
		if err != nil {
			return nil, err
		}
		answers[i] = answer
	}
	out := &verifyBatchOutput{Body: make([]verdictBody, len(answers))}
	for i, answer := range answers {
		s.count(answer, questions[i], requests[i].UserAgent)
		out.Body[i] = verdictOf(answer)
	}
	return out, nil
}
