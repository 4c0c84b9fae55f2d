"""The application, asked directly: what it answers, which images share a batch, and the status of every error."""

import asyncio
import dataclasses
import threading

import asgi
import numpy as np
import pytest
from asgi import Counting, form, png, serving, with_images
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from resnet_jax.serve import openapi
from resnet_jax.serve.confidence import Confidence, Measured
from resnet_jax.serve.limits import Limits

MEASURED = Confidence((Measured(0.3, 0.6, 80, 0.5), Measured(0.7, 0.9, 70, 0.8)))
DESCRIPTION = openapi.describe(['counting'], Limits(), token=True)


def check(schema, answer):
    """Checks an answer against the description that the server gives of itself."""
    reference = {'$ref': f'#/components/schemas/{schema}', 'components': DESCRIPTION['components']}
    Draft202012Validator(reference).validate(answer)
    return answer


def test_the_description_is_openapi():
    validate(DESCRIPTION)
    validate(openapi.describe(['a', 'b'], Limits(), token=False))


@pytest.mark.parametrize('as_form', [False, True])
def test_it_answers_for_each_image_in_its_order(as_form):
    async def main():
        counting = Counting(measured=MEASURED)
        async with serving(counting.network) as ask:
            images = png(204), png(51)
            body, kind = form(*images, top=2) if as_form else (with_images(*images, top=2), asgi.JSON)
            status, answer = await ask('/v1/predict', body, kind)
            assert status == 200
            first, second = check('Predictions', answer)['predictions']
            assert (first['class'], first['probability']) == ('bright', 0.8)
            assert [one['class'] for one in second['top']] == ['none', 'bright'] and second['probability'] == 0.72
            assert first['measured'] == second['measured'] == {'low': 0.7, 'high': 0.9, 'count': 70, 'accuracy': 0.8}
            assert counting.calls == [2]

    asyncio.run(main())


def test_it_explains_the_most_probable_class_or_a_given_one():
    async def main():
        async with serving(Counting().network) as ask:
            _, answer = await ask('/v1/explain', with_images(png(204)))
            (first,) = check('Explanations', answer)['predictions']
            _, answer = await ask('/v1/explain', with_images(png(204), **{'class': 'other'}))
            (second,) = check('Explanations', answer)['predictions']
            assert (first['explained'], second['explained']) == ('bright', 'other') and first['measured'] is None
            assert first['image'] == second['image'] and first['map'] != second['map']
            status, answer = await ask('/v1/explain', with_images(png(), **{'class': 'brigt'}))
            assert status == 422 and "did you mean 'bright'?" in check('Error', answer)['error']['message']
        async with serving(Counting(maps=False).network) as ask:
            status, answer = await ask('/v1/explain', with_images(png()))
            assert status == 501 and 'expected a run folder' in answer['error']['message']
            _, models = await ask('/v1/models', method='GET')
            assert check('Models', models)['models'][0]['explains'] is False

    asyncio.run(main())


def test_requests_that_come_while_a_batch_is_computed_share_the_next_one():
    async def main():
        counting = Counting()
        counting.gate = threading.Event()
        async with serving(counting.network) as ask:
            first = asyncio.create_task(ask('/v1/predict', with_images(png(9))))
            while not counting.calls:
                await asyncio.sleep(0.01)
            requests = [asyncio.create_task(ask('/v1/predict', with_images(png(value)))) for value in range(1, 8)]
            while ask.service._admission.images < 8 or ask.service._unread:
                await asyncio.sleep(0.01)
            counting.gate.set()
            assert (await first)[0] == 200
            answers = await asyncio.gather(*requests)
            for value, (_, answer) in zip(range(1, 8), answers, strict=True):
                shares = {one['class']: one['probability'] for one in answer['predictions'][0]['top']}
                assert shares['bright'] == pytest.approx(value / 255, rel=1e-4)
            assert counting.calls == [1, 4, 3]  # 4 is the largest that is compiled

    asyncio.run(main())


def test_an_image_waits_for_others_only_while_some_are_read():
    """With a wait that would never end, one request is answered at once; of two, the first waits for the second."""

    async def main():
        counting = Counting()
        async with serving(counting.network, wait=60.0) as ask:
            async with asyncio.timeout(50):
                await ask('/v1/predict', with_images(png(1)))
            assert counting.calls == [1]
            body, parts = with_images(png(1)), asyncio.Queue()
            parts.put_nowait({'type': 'http.request', 'body': body[:9], 'more_body': True})
            slow = asyncio.create_task(ask('/v1/predict', parts=parts))
            fast = asyncio.create_task(ask('/v1/predict', body))
            batcher = ask.service._batchers[counting.network.probabilities]
            while not batcher._waiting:
                await asyncio.sleep(0.01)
            assert not fast.done()
            parts.put_nowait({'type': 'http.request', 'body': body[9:], 'more_body': False})
            async with asyncio.timeout(50):
                assert [status for status, _ in await asyncio.gather(slow, fast)] == [200, 200]
            assert counting.calls == [1, 2]

    asyncio.run(main())


HUGE = [b''] * 65
ERRORS = [
    (with_images(*HUGE), asgi.JSON, 413, 'more than 64 images'),
    (form(*HUGE)[0], form()[1], 413, 'more than 64 images'),
    (with_images(png(size=(1001, 1000))), asgi.JSON, 413, 'image 1 has too many pixels; expected at most 1,000,000'),
    (bytes(2001), asgi.JSON, 413, 'expected at most 2,000 bytes'),
    (b'', 'image/png', 415, "the content is 'image/png'"),
    (b'', '', 415, 'expected application/json or multipart/form-data'),
    (b'{', asgi.JSON, 422, 'cannot be read as JSON'),
    (b'[' * 1999, asgi.JSON, 422, 'cannot be read as JSON'),
    (b'\xff\xfe', asgi.JSON, 422, 'cannot be read as JSON'),
    (b'9' * 1999, asgi.JSON, 422, 'JSON'),
    (b'[]', asgi.JSON, 422, 'the body is a JSON list; expected an object'),
    (b'{}', asgi.JSON, 422, 'there is no image'),
    (b'{"images": "a"}', asgi.JSON, 422, 'images is not a list'),
    (b'{"images": [1]}', asgi.JSON, 422, 'images[0] is not base64'),
    (b'{"images": ["a b\xc3\xa9"]}', asgi.JSON, 422, 'images[0] is not base64'),
    (with_images(png(), b'no image'), asgi.JSON, 422, 'image 2 cannot be read'),
    (with_images(png(), tpo=3), asgi.JSON, 422, "unknown field 'tpo'; did you mean 'top'?"),
    (with_images(png(), top=0), asgi.JSON, 422, 'top is'),
    (with_images(png(), top=True), asgi.JSON, 422, 'top is'),
    (with_images(png(), model=3), asgi.JSON, 422, 'model is'),
    (with_images(png(), model='countin'), asgi.JSON, 404, "did you mean 'counting'?"),
    (form(png(), top='x')[0], form()[1], 422, "top is 'x'"),
    (form(png(), other='x')[0], form()[1], 422, "unknown field 'other'"),
    (form(png())[0][:-20], form()[1], 422, 'the form ends too early'),
    (b'', form()[1], 422, 'the form ends too early'),
    (b'noise', form()[1], 422, 'the form cannot be read'),
    (form(png())[0], 'multipart/form-data', 422, 'the form'),
    (b'--x\r\nContent-Disposition: form-data; name="top"\r\n\r\n1\r\n' * 30, form()[1], 422, 'more than 3 fields'),
]


@pytest.mark.parametrize(('body', 'kind', 'status', 'text'), ERRORS)
def test_what_is_wrong_with_a_request_has_a_status_and_one_line(body, kind, status, text):
    async def main():
        body_bytes = 2000 if body == bytes(2001) else 2**20
        async with serving(Counting().network, body_bytes=body_bytes, pixels=1_000_000) as ask:
            actual, answer = await ask('/v1/predict', body, kind)
            assert actual == status
            message = check('Error', answer)['error']['message']
            assert text in message and '\n' not in message and len(message) < 400
            assert (await ask('/v1/predict', with_images(png(1))))[0] == 200  # nothing is left in progress
            assert ask.service._admission.images == ask.service._admission._bytes == 0

    asyncio.run(main())


def test_paths_and_methods():
    async def main():
        async with serving(Counting().network) as ask:
            assert (await ask('/v1/predict', method='GET'))[0] == 405
            status, answer = await ask('/nothing', method='GET')
            assert status == 404 and '/openapi.json' in check('Error', answer)['error']['message']
            status, health = await ask('/healthz', method='GET')
            assert status == 200 and check('Health', health)['status'] == 'ok'
            ask.service.stopping = True
            status, health = await ask('/healthz', method='GET')
            assert status == 503 and check('Health', health)['status'] == 'stopping'

    asyncio.run(main())


def test_what_is_too_much_or_too_slow_is_refused_and_left_out_of_its_batch():
    async def main():
        counting = Counting()
        counting.gate = threading.Event()
        async with serving(counting.network, queue=3, seconds=0.5) as ask:
            requests = [asyncio.create_task(ask('/v1/predict', with_images(png(1)))) for _ in range(3)]
            while ask.service._admission.images < 3:
                await asyncio.sleep(0.01)
            status, answer = await ask('/v1/predict', with_images(png(1)))
            assert status == 429 and 'try again later' in check('Error', answer)['error']['message']
            assert {status for status, _ in await asyncio.gather(*requests)} == {504}
            counting.gate.set()
            assert (await ask('/v1/predict', with_images(png(1), png(1), png(1))))[0] == 200
            assert (await ask('/v1/predict', with_images(*[png(1)] * 4)))[0] == 429
            # Of the three that nobody waits for any longer, only those that had been begun were computed.
            assert counting.calls[-1] == 3
            parts = asyncio.Queue()
            parts.put_nowait({'type': 'http.request', 'body': b'{', 'more_body': True})
            assert (await ask('/v1/predict', parts=parts))[0] == 408
            parts.put_nowait({'type': 'http.disconnect'})
            assert (await ask('/v1/predict', parts=parts))[0] == 400
            assert ask.service._admission.images == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ('error', 'status', 'text'),
    [
        (RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.'), 503, 'memory is full'),
        (MemoryError(), 503, 'memory is full'),
        (ZeroDivisionError(), 500, 'has a bug'),
    ],
)
def test_a_batch_that_fails_is_answered_and_the_next_one_too(error, status, text):
    async def main():
        counting = Counting()
        async with serving(counting.network) as ask:
            counting.error = error
            actual, answer = await ask('/v1/predict', with_images(png(1), png(1)))
            assert actual == status and text in check('Error', answer)['error']['message']
            counting.error = None
            assert (await ask('/v1/predict', with_images(png(1))))[0] == 200

    asyncio.run(main())


def test_names_that_are_no_unicode_text_are_sent_and_understood():
    async def main():
        names = ('\udcff', 'br\u00efght', '\ud800')  # the first is how Python reads the name of a folder
        network = dataclasses.replace(Counting().network, class_names=names, name='\udcfe')
        async with serving(network) as ask:
            _, models = await ask('/v1/models', method='GET')
            assert tuple(check('Models', models)['models'][0]['classes']) == names
            _, answer = await ask('/v1/predict', with_images(png(204)))
            assert answer['model'] == '\udcfe'
            assert {one['class'] for one in check('Predictions', answer)['predictions'][0]['top']} == set(names)
            _, answer = await ask('/v1/explain', with_images(png(204), **{'class': '\ud800'}))
            assert check('Explanations', answer)['predictions'][0]['explained'] == '\ud800'
            status, answer = await ask('/v1/predict', with_images(png(), model='none'))
            assert status == 404 and answer['error']['message'].endswith('expected one of \udcfe')
            assert (await ask('/openapi.json', method='GET'))[0] == 200

    asyncio.run(main())


def test_numbers_that_are_not_finite_are_not_sent():
    async def main():
        counting = Counting()
        counting.network.probabilities._functions = {1: lambda images: np.full((1, 3), np.nan)}
        async with serving(counting.network) as ask:
            with pytest.raises(FloatingPointError):
                await ask('/v1/predict', with_images(png(1)))

    asyncio.run(main())
