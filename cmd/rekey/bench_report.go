package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
)

// benchFigure is what a row measured of one thing.
type benchFigure struct {
	name   string
	unit   string
	aim    float64 // of the ratio; 0: none
	atMost bool    // the aim is an upper bound
	rounds []benchPair
	note   string
}

// benchPair is one round.
type benchPair struct{ value, limit float64 }

func (p benchPair) ratio() float64 { return p.value / p.limit }

// benchLine is a figure as it is printed: medians, and how far the rounds lie apart.
type benchLine struct {
	Row       string       `json:"row"`
	Name      string       `json:"name"`
	Unit      string       `json:"unit"`
	Value     float64      `json:"value"`
	Limit     float64      `json:"limit"`
	Ratio     float64      `json:"ratio"`
	RatioMin  float64      `json:"ratio_min"`
	RatioMax  float64      `json:"ratio_max"`
	Rounds    [][2]float64 `json:"rounds"` // value and limit of each
	Aim       float64      `json:"aim,omitempty"`
	AimAtMost bool         `json:"aim_at_most,omitempty"`
	Met       *bool        `json:"met,omitempty"` // nil: there is no aim
	About     string       `json:"about"`
	Note      string       `json:"note,omitempty"`
}

// summarize makes lines of what a row measured. The ratio is the median of the rounds' own, not that of the medians: what
// was measured side by side belongs together.
func summarize(row benchRow, figures []benchFigure) []benchLine {
	lines := make([]benchLine, len(figures))
	for i, f := range figures {
		var values, limits, ratios []float64
		var pairs [][2]float64
		for _, p := range f.rounds {
			pairs = append(pairs, [2]float64{p.value, p.limit})
			values, limits, ratios = append(values, p.value), append(limits, p.limit), append(ratios, p.ratio())
		}
		line := benchLine{
			Row: row.name, Name: f.name, Unit: f.unit, Value: median(values), Limit: median(limits), Ratio: median(ratios),
			RatioMin: slices.Min(ratios), RatioMax: slices.Max(ratios), Rounds: pairs,
			Aim: f.aim, AimAtMost: f.atMost, About: row.about, Note: f.note,
		}
		if f.aim > 0 {
			met := line.Ratio >= f.aim
			if f.atMost {
				met = line.Ratio <= f.aim
			}
			line.Met = &met
		}
		lines[i] = line
	}
	return lines
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// benchReport is everything that a run found, and how busy the machine was with other things.
type benchReport struct {
	CPUs       int         `json:"cpus"`
	LoadBefore string      `json:"load_average_before,omitempty"`
	LoadAfter  string      `json:"load_average_after,omitempty"`
	Rows       []benchLine `json:"rows"`
}

func (r benchReport) print(out io.Writer, asJSON bool) error {
	r.CPUs = runtime.NumCPU()
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d processors; load average %s before, %s after\n", r.CPUs, r.LoadBefore, r.LoadAfter)
	about := ""
	for _, l := range r.Rows {
		if l.About != about {
			about = l.About
			fmt.Fprintf(&s, "\n%s: %s\n%-22s %12s %12s %7s %15s %9s  %s\n", l.Row, l.About, "", "", "limit", "ratio", "rounds' ratios", "aim", "")
		}
		fmt.Fprintf(&s, "%-22s %12.6g %12.6g %7.2f %15s %9s  %s\n", l.Name, rounded(l.Value), rounded(l.Limit), l.Ratio,
			fmt.Sprintf("%.2f to %.2f", l.RatioMin, l.RatioMax), l.aimText(), strings.TrimSpace(l.Unit+"; "+l.Note))
	}
	_, err := io.WriteString(out, s.String())
	return err
}

// aimText says what the ratio should be, and whether it is.
func (l benchLine) aimText() string {
	if l.Met == nil {
		return "-"
	}
	sign, verdict := ">=", "ok"
	if l.AimAtMost {
		sign = "<="
	}
	if !*l.Met {
		verdict = "no"
	}
	return fmt.Sprintf("%s%.2f %s", sign, l.Aim, verdict)
}

// rounded leaves no decimals of what is large.
func rounded(v float64) float64 {
	if v < 100 {
		return float64(int(v*100+.5)) / 100
	}
	return float64(int(v + .5))
}

// loadAverage is the machine's over a minute; empty where there is no /proc.
func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}
