package main

import (
	"context"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections/verifier"
	"github.com/rekeyhq/rekey/workers"
)

// metrics are what an operator watches. Names carry their unit.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.HistogramVec
	commands  *prometheus.CounterVec
	events    prometheus.Counter
	batchSize prometheus.Histogram
	batchTime prometheus.Histogram
	alarms    *prometheus.CounterVec
}

func newMetrics() *metrics {
	latency := []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rekey_http_request_duration_seconds", Help: "Time to answer a request.", Buckets: latency,
		}, []string{"route", "status"}),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rekey_commands_total", Help: "Commands by the outcome of the transaction that joined them.",
		}, []string{"outcome"}),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rekey_events_appended_total", Help: "Events appended by this process.",
		}),
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rekey_batch_commands", Help: "Commands joined in one transaction.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256},
		}),
		batchTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rekey_batch_duration_seconds", Help: "Time of one joined transaction.", Buckets: latency,
		}),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rekey_alarms_total", Help: "Troubles that an operator must look at: webhook_proxy, epoch_key.",
		}, []string{"what"}),
	}
	for _, what := range workers.Alarms() { // so that the first one is a change of a value that was there
		m.alarms.WithLabelValues(what)
	}
	m.registry.MustRegister(m.requests, m.commands, m.events, m.batchSize, m.batchTime, m.alarms,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) request(route string, status int) func(took time.Duration) {
	requests := m.requests.WithLabelValues(route, strconv.Itoa(status))
	return func(took time.Duration) { requests.Observe(took.Seconds()) }
}

func (m *metrics) alarm(what string) { m.alarms.WithLabelValues(what).Inc() }

func (m *metrics) batch(commands, events int, took time.Duration, err error) {
	outcome := "decided"
	if err != nil {
		outcome = "failed"
	}
	m.commands.WithLabelValues(outcome).Add(float64(commands))
	m.events.Add(float64(events))
	m.batchSize.Observe(float64(commands))
	m.batchTime.Observe(took.Seconds())
}

// watch adds what is read from the running parts at each scrape.
func (m *metrics) watch(p *process) {
	m.registry.MustRegister(&lagCollector{p: p}, verifierCollector{p.verifier})
}

// verifierCollector tells how the verifier stands.
type verifierCollector struct{ v *verifier.Verifier }

var (
	trustedDesc = prometheus.NewDesc("rekey_verifier_trusted", "Whether verifies are answered from memory now.", nil, nil)
	keysDesc    = prometheus.NewDesc("rekey_verifier_keys", "Live keys in memory.", nil, nil)
	appliedDesc = prometheus.NewDesc("rekey_verifier_applied_position", "Position of the lifecycle lane that memory has.", nil, nil)
	lookupsDesc = prometheus.NewDesc("rekey_verifier_lookups_total", "Secrets that Postgres was asked for, as memory had no answer.", nil, nil)
)

// Describe lists the metrics.
func (c verifierCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{trustedDesc, keysDesc, appliedDesc, lookupsDesc} {
		ch <- d
	}
}

// Collect reads them.
func (c verifierCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.v.State()
	ch <- prometheus.MustNewConstMetric(trustedDesc, prometheus.GaugeValue, oneIf(s.Trusted))
	ch <- prometheus.MustNewConstMetric(keysDesc, prometheus.GaugeValue, float64(s.Keys))
	ch <- prometheus.MustNewConstMetric(appliedDesc, prometheus.GaugeValue, float64(s.Applied))
	ch <- prometheus.MustNewConstMetric(lookupsDesc, prometheus.CounterValue, float64(s.Lookups))
}

// lagCollector tells how far the readers of the log are behind it.
type lagCollector struct{ p *process }

var (
	headDesc  = prometheus.NewDesc("rekey_log_head_position", "Last position of the lifecycle lane.", nil, nil)
	relayDesc = prometheus.NewDesc("rekey_relay_lag_positions", "Positions that are not on NATS yet.", []string{"feed"}, nil)
	relayUp   = prometheus.NewDesc("rekey_relay_active", "Whether this process relays the feed now; one does.", []string{"feed"}, nil)
	relayHalt = prometheus.NewDesc("rekey_relay_halted", "Whether the feed refuses to go on; see the log.", []string{"feed"}, nil)
)

// Describe lists the metrics.
func (c *lagCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{headDesc, relayDesc, relayUp, relayHalt} {
		ch <- d
	}
}

// Collect reads them. What cannot be read now is left out: a missing value alarms, a stale one deceives.
func (c *lagCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if head, err := c.p.store.Head(ctx, eventstore.Lifecycle); err == nil {
		ch <- prometheus.MustNewConstMetric(headDesc, prometheus.GaugeValue, float64(head))
	}
	if lag, err := c.p.relay.Lag(ctx); err == nil {
		for feed, n := range lag {
			ch <- prometheus.MustNewConstMetric(relayDesc, prometheus.GaugeValue, float64(n), feed)
		}
	}
	for _, s := range c.p.relay.Status() {
		ch <- prometheus.MustNewConstMetric(relayUp, prometheus.GaugeValue, oneIf(s.Active), s.Name)
		ch <- prometheus.MustNewConstMetric(relayHalt, prometheus.GaugeValue, oneIf(s.Halted), s.Name)
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// handler serves metrics and pprof, on a listener of its own.
func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
