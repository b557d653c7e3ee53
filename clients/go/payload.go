package stepwell

import (
	"encoding/json"
	"fmt"
	"reflect"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// Converter turns values into payloads and back. The default one writes JSON.
type Converter interface {
	// ToPayload spells a value.
	ToPayload(value any) (*pb.Payload, error)
	// FromPayload reads a payload into what target points to. A payload without a body is the null value.
	FromPayload(payload *pb.Payload, target any) error
}

// Codec changes payloads on their way to the service and back: to encrypt or to compress them, say. Stepwell stores what
// Encode gives, and never looks inside.
type Codec interface {
	// Encode changes what goes out.
	Encode(payload *pb.Payload) (*pb.Payload, error)
	// Decode turns back what Encode gave.
	Decode(payload *pb.Payload) (*pb.Payload, error)
}

type jsonConverter struct{}

func (jsonConverter) ToPayload(value any) (*pb.Payload, error) {
	if value == nil {
		return &pb.Payload{}, nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("a %T is not to be written as JSON: %w", value, err)
	}
	return &pb.Payload{Body: &pb.Payload_Json{Json: string(text)}}, nil
}

func (jsonConverter) FromPayload(payload *pb.Payload, target any) error {
	var text []byte
	switch body := payload.GetBody().(type) {
	case nil:
		text = []byte("null")
	case *pb.Payload_Json:
		text = []byte(body.Json)
	case *pb.Payload_Data:
		return fmt.Errorf("the payload has bytes and no JSON: a converter or a codec is needed")
	default:
		return fmt.Errorf("the payload has a %T and no JSON", body)
	}
	if string(text) == "null" {
		value := reflect.ValueOf(target)
		if value.Kind() == reflect.Pointer && !value.IsNil() {
			value.Elem().SetZero()
		}
		return nil
	}
	if err := json.Unmarshal(text, target); err != nil {
		return fmt.Errorf("the payload does not fit a %T: %w", target, err)
	}
	return nil
}

// encoded puts a codec around a converter.
type encoded struct {
	inner Converter
	codec Codec
}

func (e encoded) ToPayload(value any) (*pb.Payload, error) {
	payload, err := e.inner.ToPayload(value)
	// The null value has nothing to hide.
	if err != nil || payload.GetBody() == nil {
		return payload, err
	}
	return e.codec.Encode(payload)
}

func (e encoded) FromPayload(payload *pb.Payload, target any) error {
	if payload.GetBody() == nil {
		return e.inner.FromPayload(payload, target)
	}
	decoded, err := e.codec.Decode(payload)
	if err != nil {
		return err
	}
	return e.inner.FromPayload(decoded, target)
}
