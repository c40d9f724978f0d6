// A client in Go, as its developers write one: grpc-go and generated messages. The variable INTEROP
// has what it needs, as JSON.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"reflect"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	ledgerv1 "ledger.example/ledger/v1"
)

const (
	keepaliveTime = 10 * time.Second
	largestMinor  = 999_999_999_999
)

var given struct {
	Plain         string `json:"plain"`
	TLS           string `json:"tls"`
	CA            string `json:"ca"`
	Token         string `json:"token"`
	Prefix        string `json:"prefix"`
	ServiceConfig string `json:"service_config"`
	Short         bool   `json:"short"`
}

var (
	ctx    = context.Background()
	ledger ledgerv1.LedgerServiceClient
)

// expect ends a check that does not find what it should; run reports it.
func expect(holds bool, format string, arguments ...any) {
	if !holds {
		panic(fmt.Sprintf(format, arguments...))
	}
}

func must[T any](value T, err error) T {
	expect(err == nil, "%v", err)
	return value
}

func connect(address string, secured credentials.TransportCredentials, more ...grpc.DialOption) *grpc.ClientConn {
	config := must(os.ReadFile(given.ServiceConfig))
	options := append(more,
		grpc.WithTransportCredentials(secured), grpc.WithDefaultServiceConfig(string(config)))
	return must(grpc.NewClient(address, options...))
}

// bearer sends a token with each call, and only over TLS.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

func charge(name string) *ledgerv1.ProcessorEvent {
	return &ledgerv1.ProcessorEvent{
		EventId:      given.Prefix + ":" + name,
		Type:         ledgerv1.EventType_EVENT_TYPE_CHARGE_SUCCEEDED,
		RestaurantId: given.Prefix + "-res",
		Currency:     "PEN",
		AmountMinor:  1250,
		FeeMinor:     100,
		OccurredAt:   timestamppb.New(time.Unix(1767261600, 0)),
	}
}

func charges(name string, count int) []*ledgerv1.ProcessorEvent {
	events := make([]*ledgerv1.ProcessorEvent, count)
	for number := range events {
		events[number] = charge(fmt.Sprintf("%s-%d", name, number))
	}
	return events
}

func ingest(client ledgerv1.LedgerServiceClient, event *ledgerv1.ProcessorEvent) (*ledgerv1.IngestEventResponse, error) {
	return client.IngestEvent(ctx, &ledgerv1.IngestEventRequest{Event: event})
}

// explained returns the reason of an error and the fields that it names.
func explained(failure *status.Status) (reason string, fields []string) {
	for _, detail := range failure.Details() {
		switch found := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = found.Reason
		case *errdetails.BadRequest:
			for _, violation := range found.FieldViolations {
				fields = append(fields, violation.Field)
			}
		}
	}
	return reason, fields
}

func expectError(err error, code codes.Code, reason string) {
	got, _ := explained(status.Convert(err))
	expect(status.Code(err) == code && got == reason, "expected %v %s: %v", code, reason, err)
}

func bookedOnce() {
	var waiting sync.WaitGroup
	answers := make([]*ledgerv1.IngestEventResponse, 8)
	failures := make([]error, len(answers))
	for number := range answers {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			answers[number], failures[number] = ingest(ledger, charge("once"))
		}()
	}
	waiting.Wait()
	created := 0
	for number, answer := range answers {
		expect(failures[number] == nil, "%v", failures[number])
		expect(answer.TransactionId == answers[0].TransactionId, "two transactions")
		if answer.Status == ledgerv1.IngestStatus_INGEST_STATUS_CREATED {
			created++
		}
	}
	expect(created == 1, "%d of 8 calls created the event", created)
}

func errorDetails() {
	event := charge("once")
	event.AmountMinor = 1300
	_, err := ingest(ledger, event)
	expectError(err, codes.AlreadyExists, "EVENT_ID_REUSED")
	_, err = ingest(ledger, &ledgerv1.ProcessorEvent{Currency: "pen"})
	expectError(err, codes.InvalidArgument, "INVALID_REQUEST")
	_, fields := explained(status.Convert(err))
	named := strings.Join(fields, " ")
	expect(strings.Contains(named, "event.currency"), "fields: %s", named)
}

func exactAmounts() {
	odd := charge("odd")
	odd.RestaurantId, odd.AmountMinor = given.Prefix+"-large", 3
	odd.FeeMinor = 0
	for batch := range 10 {
		events := charges(fmt.Sprintf("large-%d", batch), 901)
		for _, event := range events {
			event.RestaurantId, event.AmountMinor, event.FeeMinor = odd.RestaurantId, largestMinor, 0
		}
		must(ledger.BatchIngestEvents(ctx, &ledgerv1.BatchIngestEventsRequest{Events: events}))
	}
	must(ingest(ledger, odd))
	balance := must(ledger.GetBalance(ctx, &ledgerv1.GetBalanceRequest{
		RestaurantId: given.Prefix + "-large", Currency: "PEN"}))
	total := balance.AvailableMinor + balance.PendingMinor
	expect(total == 9010*largestMinor+3, "%d", total)
	expect(big.NewInt(total).Cmp(big.NewInt(1<<53)) > 0, "%d is a small number", total)
}

func unknownType() {
	event := charge("new")
	event.Type = 999
	_, err := ingest(ledger, event)
	expectError(err, codes.InvalidArgument, "EVENT_TYPE_UNKNOWN")
}

func deadline() {
	late, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	defer cancel()
	_, err := ledger.IngestEvent(late, &ledgerv1.IngestEventRequest{Event: charge("late")})
	expect(status.Code(err) == codes.DeadlineExceeded, "%v", err)
	must(ingest(ledger, charge("late")))
}

func cancelled() {
	open, cancel := context.WithCancel(ctx)
	time.AfterFunc(200*time.Microsecond, cancel)
	_, err := ledger.IngestEvent(open, &ledgerv1.IngestEventRequest{Event: charge("cancelled")})
	expect(err == nil || status.Code(err) == codes.Canceled, "%v", err)
	first := must(ingest(ledger, charge("cancelled")))
	again := must(ingest(ledger, charge("cancelled")))
	expect(again.Status == ledgerv1.IngestStatus_INGEST_STATUS_DUPLICATE, "%v", again)
	expect(again.TransactionId == first.TransactionId, "two transactions")
}

func streamed() {
	events := charges("stream", 300)
	stream := must(ledger.StreamEvents(ctx))
	go func() {
		for _, event := range events {
			if stream.Send(&ledgerv1.StreamEventsRequest{Event: event}) != nil {
				return // Recv has the error
			}
		}
		stream.CloseSend()
	}()
	transactions := map[string]string{}
	for _, event := range events {
		result := must(stream.Recv()).Result
		expect(result.Status == ledgerv1.IngestStatus_INGEST_STATUS_CREATED, "%v", result)
		transactions[event.EventId] = result.TransactionId
	}
	_, err := stream.Recv()
	expect(errors.Is(err, io.EOF), "%v", err)
	last := must(ingest(ledger, events[299]))
	expect(last.TransactionId == transactions[events[299].EventId], "results are not in order")
}

func batched() {
	events := charges("batch", 50)
	events[7].Currency = "XXX"
	response := must(ledger.BatchIngestEvents(ctx, &ledgerv1.BatchIngestEventsRequest{Events: events}))
	created := 0
	for _, result := range response.Results {
		if result.Status == ledgerv1.IngestStatus_INGEST_STATUS_CREATED {
			created++
		}
	}
	expect(created == 49 && len(response.Results) == 50, "%d created", created)
	var failure *spb.Status = response.Results[7].Error
	_, fields := explained(status.FromProto(failure))
	expect(reflect.DeepEqual(fields, []string{"events[7].currency"}), "%v", fields)
}

func paged() {
	events := charges("page", 20)
	var sent, found []string
	for _, event := range events {
		event.Reference = given.Prefix + "-order"
		sent = append(sent, event.EventId)
	}
	must(ledger.BatchIngestEvents(ctx, &ledgerv1.BatchIngestEventsRequest{Events: events}))
	request := &ledgerv1.ListEventsRequest{Reference: given.Prefix + "-order", PageSize: 7}
	for {
		page := must(ledger.ListEvents(ctx, request))
		for _, listed := range page.Events {
			found = append(found, listed.Event.EventId)
		}
		if request.PageToken = page.NextPageToken; request.PageToken == "" {
			break
		}
	}
	sort.Strings(sent)
	sort.Strings(found)
	expect(reflect.DeepEqual(sent, found), "%v", found)
}

func tooLarge() {
	events := charges("heavy", 1000)
	for _, event := range events {
		event.Metadata = map[string]string{"note": strings.Repeat("x", 4600)}
	}
	_, err := ledger.BatchIngestEvents(ctx, &ledgerv1.BatchIngestEventsRequest{Events: events})
	expect(status.Code(err) == codes.ResourceExhausted, "%v", err)
	many := metadata.AppendToOutgoingContext(ctx, "x-note", strings.Repeat("x", 20_000))
	_, err = ledger.IngestEvent(many, &ledgerv1.IngestEventRequest{Event: charge("note")})
	expect(err != nil, "16 KiB of metadata are the most")
	must(ingest(ledger, charge("after")))
}

func secured() {
	authorities := x509.NewCertPool()
	expect(authorities.AppendCertsFromPEM(must(os.ReadFile(given.CA))), "no certificate")
	config := credentials.NewTLS(&tls.Config{RootCAs: authorities})
	without := connect(given.TLS, config)
	defer without.Close()
	_, err := ingest(ledgerv1.NewLedgerServiceClient(without), charge("tls"))
	expectError(err, codes.Unauthenticated, "NOT_AUTHENTICATED")
	known := connect(given.TLS, config, grpc.WithPerRPCCredentials(bearer(given.Token)))
	defer known.Close()
	client := ledgerv1.NewLedgerServiceClient(known)
	must(ingest(client, charge("tls")))
	_, err = client.ListRestaurants(ctx, &ledgerv1.ListRestaurantsRequest{})
	expectError(err, codes.PermissionDenied, "SCOPE_MISSING")
	stranger := connect(given.TLS, credentials.NewTLS(&tls.Config{}))
	defer stranger.Close()
	_, err = ingest(ledgerv1.NewLedgerServiceClient(stranger), charge("tls"))
	expect(status.Code(err) == codes.Unavailable, "%v", err)
}

func pings() {
	pinging := connect(given.Plain, insecure.NewCredentials(), grpc.WithKeepaliveParams(
		keepalive.ClientParameters{Time: keepaliveTime, PermitWithoutStream: true}))
	defer pinging.Close()
	stream := must(ledgerv1.NewLedgerServiceClient(pinging).StreamEvents(ctx))
	for _, name := range []string{"before", "behind"} {
		event := charge("pinging-" + name)
		expect(stream.Send(&ledgerv1.StreamEventsRequest{Event: event}) == nil, "the stream ended")
		must(stream.Recv())
		if name == "before" {
			time.Sleep(3*keepaliveTime + 2*time.Second)
		}
	}
}

func run(name string, check func()) (passed bool) {
	defer func() {
		if failure := recover(); failure != nil {
			fmt.Printf("FAILED %s: %v\n", name, failure)
		}
	}()
	check()
	fmt.Println("ok", name)
	return true
}

func main() {
	if err := json.Unmarshal([]byte(os.Getenv("INTEROP")), &given); err != nil {
		panic(err)
	}
	connection := connect(given.Plain, insecure.NewCredentials())
	defer connection.Close()
	ledger = ledgerv1.NewLedgerServiceClient(connection)
	checks := []struct {
		name  string
		check func()
	}{
		{"an event is booked once", bookedOnce},
		{"error details are decoded", errorDetails},
		{"an int64 above 2^53 is exact", exactAmounts},
		{"a type that the server does not know is named", unknownType},
		{"a deadline ends a call", deadline},
		{"a cancelled call is repeated", cancelled},
		{"a stream acknowledges every event", streamed},
		{"a batch has a result for each event", batched},
		{"a list is paged through", paged},
		{"what is too large is refused, and the connection stays", tooLarge},
		{"TLS and a token are needed where the server asks for them", secured},
		{"pings every ten seconds are accepted", pings},
	}
	if given.Short {
		checks = checks[:len(checks)-1]
	}
	failed := 0
	for _, one := range checks {
		if !run(one.name, one.check) {
			failed++
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}
