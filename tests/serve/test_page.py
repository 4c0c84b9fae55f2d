"""The page in a browser: pictures, overlay, keyboard, phone, and what a server may do to it."""

import json
import shutil

import pytest
from browser import Browser, needs_chromium
from server_process import DIGITS, ServeProcess

pytestmark = needs_chromium

ANSWERED = "document.querySelectorAll('.said .sure').length === %d && !document.querySelector('.waiting')"
PIXELS = """[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 8, 8).data].join()"""


@pytest.fixture
def open_page(tmp_path, server):
    """Returns a function that opens the page."""
    browsers = []

    def open_page(address=server.address, **options):
        browsers.append(Browser(tmp_path / f'profile{len(browsers)}', **options))
        page = browsers[-1].__enter__()
        page.open(address)
        page.wait("!document.getElementById('choose').hidden || !document.getElementById('ask-token').hidden")
        return page

    yield open_page
    for browser in browsers:
        browser.__exit__()
        assert browser.problems == []


def text(page, selector):
    return page.evaluate(f"document.querySelector('{selector}').textContent")


def test_a_picture_that_is_chosen_is_answered_by_each_network(open_page, digit_file):
    page = open_page()
    assert text(page, '#networks') == f'2 networks side by side: {DIGITS}, program'
    page.choose_files('#file', digit_file)
    page.wait(ANSWERED % 2)
    assert page.evaluate("[...document.querySelectorAll('.said')].map(one => one.firstChild.textContent)") == ['0', '0']
    assert page.evaluate("document.querySelectorAll('.class').length") == 10
    assert f'{DIGITS}: 0, ' in text(page, '#status') and '; program: 0, ' in text(page, '#status')  # which is read out
    assert float(page.evaluate("document.querySelector('.bar i').style.width").rstrip('%')) > 90

    # The exported program cannot be explained: no classes to press, no overlay.
    shown = "[...document.querySelectorAll('canvas')].map(one => !one.hidden)"
    assert page.evaluate(shown) == [True, False]
    assert page.evaluate("[...document.querySelectorAll('.classes')].map(one => one.querySelectorAll('button').length)") == [
        5,
        0,
    ]

    # The overlay is of the pressed class, as strong as the slider says.
    assert text(page, 'figcaption') == 'What speaks for 0'
    before = page.evaluate(PIXELS)
    page.click('button.class[data-class="6"]')
    page.wait("document.querySelector('figcaption').textContent.endsWith('speaks for 6')")
    assert page.evaluate(PIXELS) != before
    pressed = (
        "[...document.querySelectorAll('button.class')].filter(one => one.ariaPressed === 'true').map(one => one.dataset.class)"
    )
    assert page.evaluate(pressed) == ['6']
    page.evaluate("document.getElementById('strength').focus()")
    page.press('Home')
    assert page.evaluate("document.querySelector('canvas').style.opacity") == '0'
    page.press('ArrowRight', 3)
    assert page.evaluate("document.querySelector('canvas').style.opacity") == '0.03'
    page.click('#seen')
    assert page.evaluate("document.querySelector('.network-view').naturalWidth") == 8
    assert page.evaluate("document.querySelector('.network-view').hidden") is False
    assert page.evaluate("document.querySelector('.photo').hidden") is True


def test_pictures_can_be_dropped_pasted_and_taken(open_page, digit_file):
    page = open_page()
    said = "document.getElementById('status').textContent"
    page.drop_files('#choose', digit_file)
    page.wait(ANSWERED % 2)
    page.evaluate("document.getElementById('status').textContent = ''")
    page.evaluate(
        "new Promise(made => document.querySelector('canvas').toBlob(made)).then(blob => {"
        "const data = new DataTransfer(); data.items.add(new File([blob], 'pasted.png', {type: 'image/png'}));"
        "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))})"
    )
    page.wait(f"{said}.includes('program: ')")
    page.evaluate("document.getElementById('status').textContent = ''")
    page.click('#camera')  # of which the browser shows a green test picture
    page.wait("document.getElementById('viewfinder').open && document.getElementById('video').videoWidth > 0")
    page.click('#shutter')
    page.wait(f"!document.getElementById('viewfinder').open && {said}.includes('program: ')")
    assert page.evaluate("document.getElementById('video').srcObject") is None  # the camera is off
    assert page.evaluate('document.activeElement.id') == 'camera'
    page.press('Enter')
    page.wait("document.getElementById('viewfinder').open && document.getElementById('video').videoWidth > 0")
    page.press('Escape')
    page.wait("!document.getElementById('viewfinder').open && document.getElementById('video').srcObject === null")


def test_everything_is_reached_by_keyboard_and_has_a_name(open_page, digit_file):
    page = open_page()
    page.press('Tab')
    assert page.evaluate('document.activeElement.id') == 'file'
    assert page.evaluate("getComputedStyle(document.querySelector('label[for=file]')).outlineStyle") == 'solid'
    page.choose_files('#file', digit_file)
    page.wait(ANSWERED % 2)
    reached = []
    for _ in range(12):
        page.press('Tab')
        reached.append(
            page.evaluate('document.activeElement.id || document.activeElement.dataset.class || document.activeElement.tagName')
        )
    assert reached[:3] == ['camera', 'strength', 'seen'] and reached[3] == '0' and 'SUMMARY' in reached
    assert page.evaluate("[...document.querySelectorAll('button.class')].every(one => one.textContent.trim())")
    names = {node['name']['value'] for node in page.accessibility_tree() if node['role']['value'] in ('slider', 'checkbox')}
    assert names == {'Overlay', 'As the network sees it'}
    page.evaluate("document.querySelectorAll('button.class')[1].focus()")
    chosen = page.evaluate('document.activeElement.dataset.class')
    page.press('Enter')
    page.wait(f"document.querySelector('figcaption').textContent.endsWith('speaks for {chosen}')")


@pytest.mark.parametrize('dark', [False, True])
def test_it_fits_a_phone_and_follows_its_colours(dark, open_page, digit_file):
    page = open_page(width=390, height=844, dark=dark)
    beyond = 'document.documentElement.scrollWidth - document.documentElement.clientWidth'
    assert page.evaluate(beyond) == 0
    page.choose_files('#file', digit_file)
    page.wait(ANSWERED % 2)
    assert page.evaluate(beyond) == 0
    ground, ink = page.evaluate('[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]')
    assert (ground == 'rgb(18, 21, 26)') == dark and contrast(ground, ink) > 7
    soft = page.evaluate("getComputedStyle(document.querySelector('.share')).color")
    card = page.evaluate("getComputedStyle(document.querySelector('.network')).backgroundColor")
    assert contrast(soft, card) > 4.5  # WCAG 2.2, 1.4.3
    small = "[...document.querySelectorAll('button, .button')].filter(one => one.offsetHeight && one.offsetHeight < 24).length"
    assert page.evaluate(small) == 0  # WCAG 2.2, 2.5.8


def contrast(first, second):
    """The contrast ratio of WCAG 2.2 of two colours 'rgb(...)'."""

    def luminance(color):
        channels = [int(part) / 255 for part in color[4:-1].split(',')]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def test_what_is_no_picture_or_too_large_is_said(open_page, digit_file, tmp_path):
    page = open_page()
    (tmp_path / 'noise.png').write_bytes(b'this is no image')
    page.choose_files('#file', tmp_path / 'noise.png')
    page.wait("document.querySelectorAll('.problem:not([hidden])').length === 2")
    assert 'image 1 cannot be read (not an image)' in text(page, '.network .problem')
    (tmp_path / 'large.png').write_bytes(bytes(600_000))
    page.choose_files('#file', tmp_path / 'large.png')
    page.wait("document.getElementById('status').textContent.startsWith('The picture has 0.6 MiB')")
    page.choose_files('#file', digit_file)
    page.wait(ANSWERED % 2)
    assert page.evaluate("document.querySelectorAll('.problem:not([hidden])').length") == 0
    page.problems.clear()  # the browser reports the two answers 422


@pytest.mark.slow
def test_names_are_text_and_a_token_is_asked_for(open_page, digit_file, exported_folder, tmp_path):
    evil = tmp_path / '<img src=x onerror=hacked=1>'
    shutil.copytree(exported_folder, evil)
    config = json.loads((evil / 'config.json').read_text())
    config['class_names'][0] = '<script>hacked = 1</script>'
    (evil / 'config.json').write_text(json.dumps(config))
    (tmp_path / 'token').write_text('a secret'.replace(' ', '-') + '\n')
    with ServeProcess(evil, '--max_batch=1', f'--token_file={tmp_path / "token"}') as process:
        page = open_page(process.address)
        assert page.evaluate("document.getElementById('choose').hidden") is True
        for token, text_of in (('wrong', 'This token is wrong.'), ('a-secret', '')):
            page.evaluate("document.getElementById('token').value = ''; document.getElementById('token').focus()")
            page.type(token)
            page.press('Enter')
            page.wait(f"document.getElementById('status').textContent === '{text_of}'")
        page.wait("!document.getElementById('choose').hidden")
        page.choose_files('#file', digit_file)
        page.wait(ANSWERED % 1)
        assert text(page, '.said').startswith('<script>hacked = 1</script>') and text(page, 'h2').startswith('<img')
        assert page.evaluate('window.hacked') is None
        page.problems.clear()  # the answers 401
